"""How the real weights of a layer become integers.

All of it works on `rows`, [groups, output channels of a group, k], and on the second moments of what
they are multiplied by, [groups, k, k]: one group, except for grouped convolutions. The error of a
change of the rows is that of the layer's output, mean over positions: sum over channels of d H d^T.
"""
