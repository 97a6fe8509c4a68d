"""Training and evaluation of GiraffeDet rungs: images labelled in COCO's format, by simulated drives or by a teacher."""
