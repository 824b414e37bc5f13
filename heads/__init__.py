"""Feature maps in, pixels or boxes out: one file a head, one contract (``heads.contract``)."""
