"""Charts that lay several models side by side: DataFrames in, a `charts.Figure` out. One function per chart.

A model keeps its colour and its shape over all charts: by its place in `models`, the list of labels that every function
takes (six at most). Rows whose numbers are missing are told, never drawn as zero. References of the paper are grey and
say that they are the paper's.
"""

from pprobe_core.compare_charts.circuits import opposition_pairs, overlap_matrix
from pprobe_core.compare_charts.effects import dose_overlay, window_overlay
from pprobe_core.compare_charts.layers import depth_profile, layer_heat, topology_bars
from pprobe_core.compare_charts.marks import MODEL_COLOURS, MODEL_SHAPES
from pprobe_core.compare_charts.ratios import fit_scatter, ratio_intervals, ratio_matrix

__all__ = [
    "MODEL_COLOURS",
    "MODEL_SHAPES",
    "depth_profile",
    "dose_overlay",
    "fit_scatter",
    "layer_heat",
    "opposition_pairs",
    "overlap_matrix",
    "ratio_intervals",
    "ratio_matrix",
    "topology_bars",
    "window_overlay",
]
