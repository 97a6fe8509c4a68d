"""bevstack: camera perception and streaming for vehicle computers, with and without ROS 2."""

__version__ = "0.1.0"
