"""Training and evaluation of GiraffeDet rungs: labelled images in COCO's format, simulated drives, pseudo-labels of a teacher."""
