"""What requests and responses contain: bodies, fields and serializers."""
