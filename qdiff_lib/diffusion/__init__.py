"""Sampling with any diffusers pipeline: texts, schedulers, noise."""
