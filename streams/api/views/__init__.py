"""The API's views. Each module has the views of one subject."""
