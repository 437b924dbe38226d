"""A small site that was written for django-eventstream, with its imports swapped."""
