workers = 1  # what is typed is in the memory of one process
bind = ["127.0.0.1:8000", "127.0.0.1:8022"]
keepalive = 15
graceful_timeout = 10
