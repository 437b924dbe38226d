"""What a project needs to serve streams: the changes that `streams_init` makes, and the checks of its server."""
