"""A folder of videos into a manifest, with poses and captions from sidecar files or local models."""
