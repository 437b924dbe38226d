"""The comparison of Streams with its peers. Their own environment imports this package too, without the tests."""
