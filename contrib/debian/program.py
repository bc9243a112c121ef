#!/usr/lib/hourd/bin/python3
"""/usr/bin/hourd is a link to this."""

import sys

from hourd.cli import main

sys.exit(main())
