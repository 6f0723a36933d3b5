"""OSKAR: one transformer pretrained on video, skeletons and text by masked latent prediction.

Every command is a function of the same name here: ``oskar.pretrain``, ``oskar.load(run).embed(paths)`` ...
They are imported when they are first asked for, so that ``import oskar`` is quick and needs no extra.
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from oskar.comparison.compare import Budget as Budget
    from oskar.comparison.compare import compare as compare
    from oskar.data.audit.audit import check as check
    from oskar.data.store.settings import TokenizeConfig as TokenizeConfig
    from oskar.data.store.write import tokenize as tokenize
    from oskar.demonstration import demo as demo
    from oskar.embedding.embed import EmbedConfig as EmbedConfig
    from oskar.embedding.embed import embed as embed
    from oskar.embedding.loaded import load as load
    from oskar.planning.plan import plan as plan
    from oskar.preparation.prepare import Backends as Backends
    from oskar.preparation.prepare import prepare as prepare
    from oskar.preparation.settings import PrepareConfig as PrepareConfig
    from oskar.recipes import recipe as recipe
    from oskar.reporting.side_by_side import report as report
    from oskar.searching.indexing import IndexConfig as IndexConfig
    from oskar.searching.indexing import index as index
    from oskar.searching.search import search as search
    from oskar.searching.serve import serve as serve
    from oskar.sharing.export import export as export
    from oskar.sharing.saved import from_pretrained as from_pretrained
    from oskar.sharing.saved import save_pretrained as save_pretrained
    from oskar.tasks.evaluate import evaluate as evaluate
    from oskar.train.pretrain import pretrain as pretrain

_PLACES = {
    "Backends": "oskar.preparation.prepare",
    "Budget": "oskar.comparison.compare",
    "EmbedConfig": "oskar.embedding.embed",
    "IndexConfig": "oskar.searching.indexing",
    "PrepareConfig": "oskar.preparation.settings",
    "TokenizeConfig": "oskar.data.store.settings",
    "check": "oskar.data.audit.audit",
    "compare": "oskar.comparison.compare",
    "demo": "oskar.demonstration",
    "embed": "oskar.embedding.embed",
    "evaluate": "oskar.tasks.evaluate",
    "export": "oskar.sharing.export",
    "from_pretrained": "oskar.sharing.saved",
    "index": "oskar.searching.indexing",
    "load": "oskar.embedding.loaded",
    "plan": "oskar.planning.plan",
    "prepare": "oskar.preparation.prepare",
    "pretrain": "oskar.train.pretrain",
    "recipe": "oskar.recipes",
    "report": "oskar.reporting.side_by_side",
    "save_pretrained": "oskar.sharing.saved",
    "search": "oskar.searching.search",
    "serve": "oskar.searching.serve",
    "tokenize": "oskar.data.store.write",
}
__all__ = sorted(_PLACES)


def __getattr__(name: str) -> object:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module 'oskar' has no attribute {name!r}")
    return getattr(importlib.import_module(place), name)


def __dir__() -> list[str]:
    return [*globals(), *_PLACES]
