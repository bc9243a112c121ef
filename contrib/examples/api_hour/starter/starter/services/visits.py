"""Who was here."""


class Journal:
    """An engine: a file of names."""

    def __init__(self, path):
        self._file = open(path, "a+")  # noqa: SIM115, closed by close()

    def add(self, name):
        self._file.write(f"{name}\n")
        self._file.flush()
        self._file.seek(0)
        return len(self._file.readlines())

    def close(self):
        self._file.close()


async def count(container, who):
    return container.engines["journal"].add(who)
