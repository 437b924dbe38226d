"""The direct way: streams are answered without Django's handler and without most of the middleware."""
