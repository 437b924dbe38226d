"""The demo site for the app `streams`."""
