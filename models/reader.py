"""Several views read the same windows, the linear ones with one matrix product.

A linear autoencoder of a linear function of the window (its differences, or what is left of it without its mean) is
a linear function of the window itself. So its components are pulled back through its inputs once, and those of all
such views stand side by side in one matrix: its product with the windows gives all codes, and no view's inputs are
written out for it. Only the judged rows are then reconstructed. Where all rows count alike not even these are:
components are orthonormal, so the squared error is what the codes leave of the squared length (Pythagoras).

Legend: B windows, T rows, F features, J judged rows, C channels, L latents of all linear views, V views.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from models.architectures import linear
from models.views import View, log_of_sum

_PRECISION = 3e-6
"""Share of a squared length that single precision does not tell from nothing."""


class Reader:
    """What some views find in windows of `window` rows; made anew where their weights change."""

    def __init__(self, views: Sequence[View], window: int) -> None:
        self._views = [_Linear(view, window) if _is_linear(view) else view for view in views]
        self.device = views[0].step_F.device
        self._linear = [view for view in self._views if isinstance(view, _Linear)]
        if self._linear:
            self._weights_DL = torch.cat([view.weights_DL for view in self._linear], dim=1)
            self._bias_L = torch.cat([view.bias_L for view in self._linear])

    @torch.no_grad()
    def errors(self, z_BTF: Tensor) -> Tensor:
        """Return every view's error of each window, error_BV, as `View.errors` has it."""
        codes = {}
        if self._linear:
            code_BL = torch.addmm(self._bias_L, z_BTF.flatten(1), self._weights_DL)
            widths = [len(view.bias_L) for view in self._linear]
            codes = dict(zip(self._linear, torch.split(code_BL, widths, dim=1), strict=True))
        return torch.stack(
            [
                view.errors(z_BTF, codes[view]) if isinstance(view, _Linear) else view.errors(z_BTF)
                for view in self._views
            ],
            dim=1,
        )


def _is_linear(view: View) -> bool:
    return (
        isinstance(view.network, linear.Autoencoder) and view.nearest is None and view.config.inputs != "compressed"
    )


class _Linear:
    """A view whose codes are a linear function of the window."""

    def __init__(self, view: View, window: int) -> None:
        self._view = view
        network, judged = view.network, view.config.judged * len(view.usual_C)
        assert isinstance(network, linear.Autoencoder)
        center_W, components_WL = network.center_W.detach(), network.components_WL.detach()
        self.weights_DL = _pulled_back(view, components_WL, window)
        self.bias_L = -center_W @ components_WL
        self._center_W = center_W
        self._rebuilding = torch.cat([components_WL.T, center_W[None]])[:, -judged:].contiguous()
        """From codes and a 1 to the judged rows."""
        whole = view.config.measure == "whole" and view.config.judged == view.config.window
        # A level far from zero would drown what codes leave of the length.
        self._by_length = whole and view.config.inputs == "centred"

    def errors(self, z_BTF: Tensor, code_BL: Tensor) -> Tensor:
        """Return the view's error of windows with these codes."""
        view, judged = self._view, self._view.config.judged
        if self._by_length:
            x_BW = view.inputs(z_BTF).flatten(1) - self._center_W
            length_B = torch.linalg.vector_norm(x_BW, dim=1).square()
            left_B = (length_B - code_BL.square().sum(dim=1)).clamp(min=0) + _PRECISION * length_B
            return log_of_sum(left_B / judged) - view.high_error
        x_BJC = view.inputs(z_BTF, judged)
        extended_BL = torch.nn.functional.pad(code_BL, (0, 1), value=1.0)
        off_BW = torch.addmm(x_BJC.flatten(1), extended_BL, self._rebuilding, alpha=-1)
        e_BC = off_BW.square_().view(x_BJC.shape).mean(dim=1)
        return view.measure(e_BC)[0] - view.high_error


def _pulled_back(view: View, components_WL: Tensor, window: int) -> Tensor:
    """Return what each value of a window adds to each code, [T * F, L]: the transpose of the view's inputs."""
    codes = components_WL.shape[1]
    with torch.enable_grad():
        z_LTF = components_WL.new_zeros((codes, window, view.features)).requires_grad_()
        found_L = (view.inputs(z_LTF).flatten(1) * components_WL.T).sum()
        (pulled_LTF,) = torch.autograd.grad(found_L, z_LTF)
    return pulled_LTF.flatten(1).T.contiguous()
