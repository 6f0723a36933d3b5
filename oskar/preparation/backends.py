"""Where poses and captions can come from: what each backend reads, what it needs, and which licences bear on it."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class Backend:
    """``licence`` is that of the tool that makes such files or runs such models, as its authors state it."""

    name: str
    gives: str
    reads: str
    needs: str
    licence: str


_NOTHING = "nothing"
_ONNX = 'pip install "oskar[onnx]" and a model file'

BACKENDS: tuple[Backend, ...] = (
    Backend(
        name="npz",
        gives="poses",
        reads="STEM.npz: our own files of joints, 2-D, any known layout",
        needs=_NOTHING,
        licence="that of the data",
    ),
    Backend(
        name="coco",
        gives="poses",
        reads="STEM.json or STEM.coco.json: COCO keypoints, images and annotations, or a list of results",
        needs=_NOTHING,
        licence="that of the data; the COCO annotations themselves are CC BY 4.0",
    ),
    Backend(
        name="openpose",
        gives="poses",
        reads="STEM/*_keypoints.json or STEM_NUMBER_keypoints.json: one file a frame, BODY_25 or COCO-18",
        needs=_NOTHING,
        licence="OpenPose: academic or non-profit, non-commercial use only",
    ),
    Backend(
        name="alphapose",
        gives="poses, tracks",
        reads="STEM.json, STEM.alphapose.json or STEM/alphapose-results.json, its default format, 17, 26 or 136 joints",
        needs=_NOTHING,
        licence="AlphaPose: non-commercial use only",
    ),
    Backend(
        name="mediapipe",
        gives="poses",
        reads="STEM.json or STEM.mediapipe.json: a list of frames with 33 landmarks",
        needs=_NOTHING,
        licence="MediaPipe and its models: Apache-2.0",
    ),
    Backend(
        name="pyskl",
        gives="poses, tracks",
        reads="--poses FILE.pkl: 2-D poses by frame_dir; read without running what the pickle names",
        needs=_NOTHING,
        licence="PYSKL: Apache-2.0; the poses bear the terms of their videos, NTU RGB+D's are academic only",
    ),
    Backend(
        name="yolo-pose",
        gives="poses, boxes",
        reads="--pose-model FILE.onnx --pose-convention yolo-pose: output [1, 56, N], as YOLOv8 and YOLO11 export it",
        needs=_ONNX,
        licence="ONNX Runtime: MIT; Ultralytics' models: AGPL-3.0 or a licence bought from them",
    ),
    Backend(
        name="rtmpose",
        gives="poses, boxes",
        reads="--pose-model FILE.onnx --pose-convention rtmpose --person-model FILE.onnx: SimCC x and y, 17 joints",
        needs=f"{_ONNX} and a YOLO model file that finds people",
        licence="ONNX Runtime: MIT; RTMPose: Apache-2.0; the finder has its own",
    ),
    Backend(
        name="captions",
        gives="captions",
        reads="STEM.txt, STEM.srt, STEM.vtt, or caption in STEM.json",
        needs=_NOTHING,
        licence="that of the data",
    ),
    Backend(
        name="caption-model",
        gives="captions",
        reads="--caption-model FOLDER: an image-text-to-text model of transformers, safetensors",
        needs='pip install "oskar[hf]", pillow, and a model folder',
        licence="transformers: Apache-2.0; the model has its own, in its card",
    ),
)
