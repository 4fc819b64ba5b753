"""What builds the course's notebooks from their sources: ``make notebooks`` and ``make student``."""
