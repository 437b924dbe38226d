"""The page "Why was it not received?": find the reasons why a client did not receive a message."""
