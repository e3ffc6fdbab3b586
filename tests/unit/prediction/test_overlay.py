from __future__ import annotations

import numpy as np
import pytest

from agfnet.prediction.overlay import cell_side, cells_of, spread


@pytest.mark.parametrize("step", [8, 16, 32])
def test_a_cell_is_what_the_encoder_steps_over_however_it_rounds(step):
    for side in range(64, 600):
        up = down = side
        for _ in range(step.bit_length() - 1):
            up, down = -(-up // 2), down // 2
        assert cell_side(side, up) == cell_side(side, down) == step


def test_a_map_lies_where_its_cells_were_looked_at():
    """Ten cells of 16 pixels are 160, of which a frame of 150 shows the last one in part; nine leave a rim."""
    for cells, last in ((10, range(144, 150)), (9, range(128, 150))):
        assert np.flatnonzero(cells_of(150, cells) == cells - 1).tolist() == list(last)
        for row in range(1, cells):
            heat = np.zeros((cells, 13))
            heat[row] = 1.0
            shown = spread(heat, (150, 200))
            assert shown.shape == (150, 200)
            assert shown.argmax(0)[0] == pytest.approx(min(16 * row + 7.5, 149), abs=1)
    assert spread(np.zeros((4, 4)), (64, 64)).max() == 0.0
