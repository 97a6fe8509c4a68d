"""The published recipe: training on nuScenes, alone or mixed with simulated drives; see docs/nuscenes.md."""
