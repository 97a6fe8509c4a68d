"""The wire over Cyclone DDS's C library: raw CDR, understood by ROS 2 nodes."""
