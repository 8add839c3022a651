from __future__ import annotations

from stub_programs.stub import Stub

from diht_k8s.api.run import Stage

_stub = Stub(Stage.TRAIN)
identify, reads, execute, present = _stub.identify, _stub.reads, _stub.execute, _stub.present
