"""aiosmtpd: ``kind: protocol``. A mail is accepted once it is in a file."""

import pathlib
import uuid

from aiosmtpd.smtp import SMTP


class Mailbox:
    async def handle_DATA(self, server, session, envelope):  # noqa: N802, aiosmtpd's name
        pathlib.Path("mails").mkdir(exist_ok=True)
        pathlib.Path("mails", str(uuid.uuid4())).write_bytes(envelope.content)
        return "250 OK"


mailbox = Mailbox()


def connect():
    return SMTP(mailbox, hostname="localhost")
