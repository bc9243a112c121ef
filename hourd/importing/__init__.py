"""``hourd import``: the configuration of other servers as hourd's.

What a setting becomes, or why it has no counterpart, stands in tables: ``gunicorn`` and ``without``.
"""
