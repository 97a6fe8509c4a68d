"""ROS package of bevstack: no logic here, see the Python package bevstack."""
