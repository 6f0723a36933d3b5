"""A tiny image-text-to-text model with random weights, made here, saved and used by its path."""

from pathlib import Path
from typing import Any

import pytest
import torch
from runs import noise_video

from oskar.data.decoding import read_frames
from oskar.data.manifest import read_manifest
from oskar.errors import InputError
from oskar.preparation.models.caption_model import CaptionModel
from oskar.preparation.prepare import Backends, prepare
from oskar.preparation.settings import CaptionsConfig, PrepareConfig

pytestmark = pytest.mark.slow  # importing transformers alone takes seconds

WORDS = "<pad> <s> </s> <unk> <image> USER: ASSISTANT: describe a person walks jumps sits runs waves"
TEMPLATE = (
    "{% for m in messages %}USER: {% for c in m['content'] %}{% if c['type'] == 'image' %}<image> {% else %}"
    "{{ c['text'] }} {% endif %}{% endfor %}{% endfor %}{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)


def tiny_llava(folder: Path) -> Path:
    """A LLaVA of width 16 with random weights, a vocabulary of 15 words and a processor, as transformers saves it."""
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, models, pre_tokenizers

    vocabulary = {word: i for i, word in enumerate(WORDS.split())}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>",
        additional_special_tokens=["<image>"],
    )  # fmt: skip
    size = {"height": 16, "width": 16}
    processor = transformers.LlavaProcessor(
        image_processor=transformers.CLIPImageProcessor(size={"shortest_edge": 16}, crop_size=size),
        tokenizer=tokenizer,
        patch_size=8,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE,
    )
    torch.manual_seed(0)
    vision = transformers.CLIPVisionConfig(
        hidden_size=16, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2, image_size=16, patch_size=8
    )
    text = transformers.LlamaConfig(
        vocab_size=len(vocabulary), hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=2,
        pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    config = transformers.LlavaConfig(vision_config=vision, text_config=text, image_token_index=4, image_seq_length=4)
    model = transformers.LlavaForConditionalGeneration(config)
    model.generation_config.suppress_tokens = list(range(7))  # random weights would say nothing but special words
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\n# tiny\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def llava(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llava(tmp_path_factory.mktemp("llava"))


def test_a_caption_is_the_models_answer_without_its_prompt(llava: Path, tmp_path: Path) -> None:
    """Against the same model called as its own documentation does, on the frames 1 and 4 of 6."""
    from PIL import Image
    from transformers import AutoModelForImageTextToText, AutoProcessor

    video = noise_video(tmp_path / "clip.mkv", n_frames=6, size=24)
    settings = CaptionsConfig(n_frames=2, prompt="describe a person", n_tokens=6)
    model = CaptionModel(llava, settings)
    assert (model.licence, model.name) == ("apache-2.0", llava.name)
    caption = model.caption(video, 6)
    processors: Any = AutoProcessor
    processor = processors.from_pretrained(llava, local_files_only=True)
    reference: Any = AutoModelForImageTextToText.from_pretrained(llava, local_files_only=True)
    images = [Image.fromarray(frame.permute(1, 2, 0).numpy()) for frame in read_frames(video, [1, 4])]
    text = "USER: <image> <image> describe a person ASSISTANT:"
    inputs = processor(images=images, text=text, return_tensors="pt")
    ids = reference.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert caption == processor.decode(ids, skip_special_tokens=True)
    assert 0 < len(caption.split()) <= 6
    assert "describe" not in caption.split()[:1]


def test_folders_that_hold_no_caption_model(llava: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no config.json. Fix: .*nothing is downloaded"):
        CaptionModel(tmp_path, CaptionsConfig())
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="cannot be loaded"):
        CaptionModel(tmp_path, CaptionsConfig()).load()
    (tmp_path / "config.json").write_bytes((llava / "config.json").read_bytes())
    with pytest.raises(InputError, match="cannot be loaded"):
        CaptionModel(tmp_path, CaptionsConfig()).load()


def test_videos_without_text_are_captioned_and_the_licence_is_kept(llava: Path, tmp_path: Path) -> None:
    for name in ("bare", "given"):
        noise_video(tmp_path / "clips" / f"{name}.mkv", n_frames=3, size=24)
    (tmp_path / "clips" / "given.txt").write_text("it is given")
    config = PrepareConfig(captions=CaptionsConfig(n_frames=1, prompt="describe a person", n_tokens=4))
    summary = prepare(tmp_path / "clips", tmp_path / "data", Backends(caption_model=llava), config, workers=1)
    assert summary["captions_by_source"] == {f"model {llava.name}": 1, "txt": 1}
    assert summary["models"][llava.name]["licence"] == "apache-2.0"
    captions = {row.clip_id: row.caption for row in read_manifest(tmp_path / "data").rows}
    assert captions["given"] == "it is given"
    assert set((captions["bare"] or "").split()) <= {
        "describe",
        "a",
        "person",
        "walks",
        "jumps",
        "sits",
        "runs",
        "waves",
    }
    assert captions["bare"]
