"""What shares memory while a forward is traced, and how real tensors and writes become operations.

Knows the capture only as what records; the capture imports it.
"""
