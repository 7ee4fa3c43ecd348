"""The optimizer's update inside backward: gradients are used and freed one by one.

optimizer = torch.optim.AdamW(model.parameters())
fxpass.optim.in_backward(optimizer)
# the training loop stays as it is: zero_grad(), backward(), step()
"""

from fxpass.optim._in_backward import InBackward, in_backward

__all__ = ["InBackward", "in_backward"]
