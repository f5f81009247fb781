"""The offline half: reads catalogues and histories, trains UniTok and a T5, writes bundles.

Needs the extra `train`. May import `service` (the reader owns the bundle format), never the other way round.
"""
