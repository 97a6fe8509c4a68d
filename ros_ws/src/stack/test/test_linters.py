"""ROS's own linters, where ROS is installed."""

import pytest


@pytest.mark.linter
@pytest.mark.parametrize('linter', ['ament_flake8', 'ament_pep257', 'ament_xmllint'])
def test_linter(linter):
    """The package passes the linter."""
    module = pytest.importorskip(f'{linter}.main')
    if linter == 'ament_flake8':
        code, errors = module.main_with_errors(argv=['--linelength', '128'])
        assert code == 0, '\n'.join(errors)
    else:
        assert module.main(argv=[]) == 0
