"""Heat: zones, evidence of throttling, thermal model, governor policy and a plant simulator. Knows no network and no ROS.

Import from the modules: ``zones`` (what is measured), ``rungs`` (what can be chosen), ``policy`` (who chooses), ``bands`` (the
plain fallback), ``calibration`` (the model), ``scenario`` and ``simulate`` (the plant that the policy is tested against).
"""
