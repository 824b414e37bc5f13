"""Image in, feature maps out: one file a family, one contract (``backbones.contract``)."""
