"""The caption parser and the OCR engine of a test process: loaded once for all runs of the filter in it.

A start of the filter loads them, for one to two seconds of CPU time. Their results do not depend on what they read
before (`test_parser.py`, `test_spotter.py`), so that the tests of the stage need not pay for it. The tests of loading
itself call `load_parser` and `load_engine` where they are defined.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from diht_k8s.stages.filter.captions import parser
from diht_k8s.stages.filter.captions.dependency_parsers import ParserKind, SpacyParser, load_parser
from diht_k8s.stages.filter.text_spotting import rapidocr_engine, spotter
from diht_k8s.stages.filter.text_spotting.rapidocr_engine import ShapedNetwork, import_openvino

_parsers: dict[ParserKind, SpacyParser] = {}
_engines: dict[Any, Any] = {}
_sessions: dict[Any, dict[str, Any]] = {}
_networks: dict[Any, ShapedNetwork] = {}


_of_the_parent: list[Any] = []


def _leave_networks_to_the_parent() -> None:
    """A fork has no threads of OpenVINO: it must neither use its networks nor free them, which would wait for these."""
    for found in (_engines, _sessions, _networks):
        _of_the_parent.append(dict(found))
        found.clear()


os.register_at_fork(after_in_child=_leave_networks_to_the_parent)


def _shared_parser(kind: ParserKind) -> SpacyParser:
    if kind not in _parsers or _parsers[kind].is_full:
        _parsers.pop(kind, None)
        _parsers[kind] = load_parser(kind)
    return _parsers[kind]


def _shared_engine(**settings: Any) -> Any:
    """An engine of these very settings; those that differ in the detector's size alone have the networks in common."""
    key = tuple(sorted(settings.items()))
    if key not in _engines:
        import_openvino()  # before RapidOCR does
        from rapidocr.inference_engine.openvino import OpenVINOInferSession

        read = OpenVINOInferSession.__init__

        def read_once(session: Any, config: Any) -> None:
            network = str([config.get(name) for name in ("task_type", "model_type", "lang_type", "engine_cfg")])
            if network not in _sessions:
                read(session, config)
                _sessions[network] = session.__dict__
            session.__dict__.update(_sessions[network])

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(OpenVINOInferSession, "__init__", read_once)
            patch.setattr(rapidocr_engine, "ShapedNetwork", _shared_network)
            _engines[key] = rapidocr_engine.load_engine(**settings)
    return _engines[key]


def _shared_network(model: Any, **settings: Any) -> ShapedNetwork:
    key = (id(model), *sorted((name, str(value)) for name, value in settings.items()))  # `_sessions` keeps the model
    if key not in _networks:
        _networks[key] = ShapedNetwork(model, **settings)
    return _networks[key]


@contextmanager
def shared_models() -> Iterator[None]:
    """Within the block, whoever parses captions or reads texts in this process gets the shared models."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parser, "load_parser", _shared_parser)
        patch.setattr(spotter, "load_engine", _shared_engine)
        yield
