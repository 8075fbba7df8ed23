"""The data on disk that stages exchange: what they hold, and when they are built again."""
