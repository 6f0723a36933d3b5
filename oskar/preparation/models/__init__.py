"""Poses and captions from models in local files."""
