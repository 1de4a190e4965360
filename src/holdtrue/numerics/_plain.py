"""Operators that have one answer as they are: moves, comparisons, and single IEEE operations."""

from ._registry import IEEE, MOVES

_MOVES = """
_conj _reshape_alias _to_copy _unsafe_view alias alias_copy all any argsort as_strided as_strided_scatter bitwise_and
bitwise_not bitwise_or bitwise_xor broadcast_to bucketize cat channel_shuffle chunk clone constant_pad_nd copy copy_ detach
diag_embed diagonal diagonal_backward diagonal_copy diagonal_scatter embedding empty empty_like empty_permuted
empty_strided eq equal expand expand_copy eye fill flip full full_like gather ge gt im2col index index_copy index_fill
index_select is_same_size isfinite isin isinf isnan isneginf isposinf item le lift lift_fresh lift_fresh_copy
logical_and logical_not logical_or logical_xor lt masked_fill masked_scatter masked_select narrow_copy ne new_empty
new_empty_strided new_full new_ones new_zeros nonzero ones ones_like permute permute_copy pixel_shuffle pixel_unshuffle
reflection_pad1d reflection_pad2d repeat repeat_interleave replication_pad1d replication_pad2d resize roll rot90
scalar_tensor searchsorted select select_backward select_copy select_scatter set signbit slice slice_backward slice_copy
slice_scatter split split_copy split_with_sizes split_with_sizes_copy squeeze squeeze_copy stack t t_copy take transpose
transpose_copy tril tril_indices triu triu_indices unbind unbind_copy unfold unfold_copy unsafe_split
unsafe_split_with_sizes unsqueeze unsqueeze_copy value_selecting_reduction_backward
view view_as_complex view_as_real view_copy where zero zeros zeros_like record_stream pin_memory is_pinned
_local_scalar_dense _pin_memory _has_same_storage_numel _is_all_true _is_any_true _assert_async _unsafe_index
fill_diagonal _pack_padded_sequence _pack_padded_sequence_backward
"""

_IEEE = """
abs mul neg floor ceil trunc round sign sgn positive copysign nan_to_num hardtanh_backward leaky_relu_backward
threshold_backward
"""

MOVES.update(_MOVES.split())
IEEE.update(_IEEE.split())
