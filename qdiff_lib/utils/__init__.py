"""What everything else stands on: files, hashes, locks, checked settings, progress."""
