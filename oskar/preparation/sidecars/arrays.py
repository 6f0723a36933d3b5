"""Poses that are arrays already: our own files of joints, and samples of PYSKL pickles."""

from pathlib import Path

import numpy as np
import torch

from oskar.data.folder_reader import is_length_alike
from oskar.data.formats.pyskl import PysklSample
from oskar.data.placement import SkeletonSequence
from oskar.data.skeletons import folder_layout, read_joints_file
from oskar.errors import InputError
from oskar.preparation.detections import Detections
from oskar.preparation.sidecars.video_facts import VideoFacts
from oskar.tokens.layouts import to_internal


def read_own(path: Path, video: VideoFacts) -> Detections:
    """A ``.npz`` of joints, as ``oskar/data/skeletons.py`` describes it; each of its people is a track.

    Its layout is its own, or that of a ``joint_names.txt`` beside it or in the folder of videos or poses.

    Raises:
        InputError: as ``read_joints_file``, joints in metres, no joints, or another length than the video.
    """
    layout = folder_layout(path.parent) or video.layout
    sequence = read_joints_file(path, frame_size=_whole(video), layout=layout, prefer_2d=True)
    if sequence is None:
        raise InputError(f"{path}: holds no joints", fix="store them as joints, with the texts layout and units")
    return _detections(sequence, video, str(path))


def read_sample(sample: PysklSample, video: VideoFacts, source: str) -> Detections:
    """A sample of 2-D poses; coordinates are pixels of its own ``img_shape``. Each of its people is a track."""
    source = f"{source} ({sample.name})"
    if sample.frame_size is None:
        raise _metres(source)
    positions, confidence = (torch.from_numpy(array) for array in sample.joints())
    positions, confidence = to_internal(positions / torch.tensor(sample.frame_size), confidence, sample.layout)
    return _detections(SkeletonSequence(positions=positions, confidence=confidence, boxes=None), video, source)


def _detections(sequence: SkeletonSequence, video: VideoFacts, source: str) -> Detections:
    if sequence.positions.shape[-1] != 2:
        raise _metres(source)
    if not is_length_alike(video.n_frames, sequence.n_frames):
        raise InputError(
            f"{source}: {sequence.n_frames} frames of joints for {video.n_frames} frames of video",
            fix="give one row of joints per frame of the video",
        )
    n_frames = min(video.n_frames, sequence.n_frames)
    confidence = sequence.confidence[:, :n_frames].numpy()
    frames, people = np.nonzero((confidence > 0).any(axis=-1).T)
    joints = np.concatenate([sequence.positions[:, :n_frames].numpy(), confidence[..., None]], axis=-1)[people, frames]
    joints[..., :2][joints[..., 2] == 0] = np.nan
    boxes = np.full((len(people), 4), np.nan) if sequence.boxes is None else sequence.boxes.numpy()[people, frames]
    return Detections(
        n_frames=video.n_frames,
        frame_idx=frames.astype(np.int64),
        joints=joints.astype(np.float32),
        boxes=boxes.astype(np.float32),
        scores=np.full(len(people), np.nan, dtype=np.float32),
        track_ids=people.astype(np.int64),
    )


def _metres(source: str) -> InputError:
    return InputError(f"{source}: joints in metres do not lie on the video", fix="give 2-D joints, in pixels or shares")


def _whole(video: VideoFacts) -> tuple[int, int]:
    return round(video.size[0]), round(video.size[1])
