"""The data on disk that stages exchange: what a dataset or feature holds, and when it is built again."""
