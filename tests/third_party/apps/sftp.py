"""asyncssh with SFTP, and a shell beside it: ``kind: ssh`` with ``sftp: true``."""


async def shell(process):
    process.stdout.write(f"you said {process.command}\n")
    process.exit(0)
