"""Whether uvicorn's HTTP connections are read."""

from __future__ import annotations

from uvicorn.protocols.http.flow_control import FlowControl


class Flow(FlowControl):
    """Reading and writing, of which hourd has its say too."""

    is_held = False
    """Whether nothing more is to be read, whoever asks for it: requests wait that have come already."""

    def resume_reading(self) -> None:
        if self.read_paused and not self.is_held:
            self.read_paused = False
            self._transport.resume_reading()
