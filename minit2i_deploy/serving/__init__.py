"""A server of bundles: images and embeddings for other programs, and a page for people.

``scheduling`` decides what runs next and knows neither time, threads nor HTTP. ``engine`` is the
thread that runs it. ``service`` is both for asyncio. ``dialects`` are the APIs, a module for each,
and ``http`` what they share.
"""
