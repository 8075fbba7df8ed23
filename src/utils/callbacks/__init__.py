"""The Lightning callbacks of `tracked_trainer`, its logger, and its resumable data loader."""
