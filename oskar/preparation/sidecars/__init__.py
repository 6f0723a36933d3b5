"""Poses and captions that other tools left in files beside a video."""
