"""The ROS package: entry points, launch files, parameters, rviz configuration. The code is in the Python package bevstack."""

import os
from glob import glob

from setuptools import setup

package_name = 'stack'
# Launch, parameter and rviz files stand once, at the top of the repository. colcon may run this file through a symbolic link.
here = os.path.dirname(os.path.realpath(__file__))
top = os.path.relpath(os.path.join(here, '..', '..', '..', 'launch'))


def shared(pattern):
    """Files of the repository's launch folder; there must be some."""
    found = sorted(glob(os.path.join(top, pattern)))
    if not found:
        raise FileNotFoundError(f'{top}/{pattern} matches nothing: build the stack package inside its repository')
    return found


setup(
    name=package_name,
    version='0.1.0',
    packages=[package_name],
    data_files=[
        ('share/ament_index/resource_index/packages', [os.path.join('resource', package_name)]),
        (f'share/{package_name}', ['package.xml']),
        (f'share/{package_name}/launch', shared('*.launch.py')),
        (f'share/{package_name}/params', shared('params/*')),
        (f'share/{package_name}/rviz', shared('rviz/*.rviz')),
    ],
    install_requires=['setuptools'],
    zip_safe=True,
    maintainer='bevstack developers',
    maintainer_email='maintainers@bevstack.example',
    description="Camera perception for vehicle computers: boxes in bird's-eye view from the cameras of a rig",
    license='Apache-2.0',
    extras_require={'test': ['pytest']},
    entry_points={
        'console_scripts': [
            'bev_node = bevstack.ros.nodes.bev_node:main',
            'decoder_node = bevstack.ros.nodes.decoder_node:main',
            'detect_node = bevstack.ros.nodes.detect_node:main',
            'camera_node = bevstack.ros.nodes.camera_node:main',
            'encoder_node = bevstack.ros.nodes.encoder_node:main',
            'governor_node = bevstack.ros.nodes.governor_node:main',
            'player = bevstack.ros.nodes.player:main',
            'recorder = bevstack.ros.nodes.recorder:main',
            'viewer = bevstack.viewer.node:main',
        ],
    },
)
