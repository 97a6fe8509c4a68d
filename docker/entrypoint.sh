#!/bin/bash
# ROS, the stack's workspace and the virtual environment, then the command.
set -e
source "/opt/ros/${ROS_DISTRO}/setup.bash"
source /opt/stack/setup.bash
source /opt/venv/bin/activate
exec "$@"
