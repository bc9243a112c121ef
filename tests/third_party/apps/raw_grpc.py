"""What both gRPC servers serve, with bytes for messages: nothing has to be generated."""

SERVICE, METHOD = "test.Echo", "Say"
PATH = f"/{SERVICE}/{METHOD}"
