/*
 * More operators of the domain "convd.blocked" (see blocked.h): those that keep a map a map.
 *
 *   WinogradConv    X, W, B or nothing, residual or nothing: Conv with 3 x 3 kernels, strides,
 *                   dilations and groups of 1 and constant W and B. Attribute `tile`: 4 or 2
 *   DepthwiseConv   the same inputs: Conv with as many groups as channels in and out, constant W
 *                   and B
 *   MaxPool, AveragePool, GlobalMaxPool, GlobalAveragePool
 *                   X, and the attributes of ONNX's operator; no Indices
 *   Add             A, B of one shape
 *   Mul             A, B of one shape; or B [N, C, 1, 1] or [1, C, 1, 1], blocked or plain
 *                   (squeeze and excitation)
 *   Activation      X
 *   BatchNormalization  X, scale, B, mean, variance: ONNX's, with constants
 *   Channels        X_0, X_1 ... alike but for their channels: Y has any of their channels, in any
 *                   order. Attribute `channels`: for each channel of Y the number of an input and
 *                   that of its channel. An input may be a part of Y (see blocked.h) where Y has
 *                   its blocks as they are; they are then left alone
 *   LayerNorm       X, scale, B or nothing (constants of C numbers): over the channels of each
 *                   pixel, or, X and Y plain, over the last dimension. Attribute `epsilon`
 *   Softmax         X and Y plain: ONNX's where the dimensions it runs over are the last
 *
 * X, A, B, the residual and Y are blocked [N, C, H, W] unless the list says otherwise; all but
 * the global pools, Channels, LayerNorm and Softmax take `activation` as in "convd". A residual has
 * the gap of Y; of all other maps the gaps may differ. A global pool's Y may be plain.
 */
#ifndef CONVD_OPS_BLOCKED_MAPS_H
#define CONVD_OPS_BLOCKED_MAPS_H

#include "engine/ops/blocked.h"

/* Whether a Conv (of any domain) that infer has accepted is DepthwiseConv's; *gap is what X has to
 * have. */
bool blocked_depthwise_fits(const struct op_node *node, unsigned *gap);

/* Whether it is WinogradConv's, and the smallest gap that X needs for the fast way around its
 * edges (any gap is right). */
bool blocked_winograd_fits(const struct op_node *node, unsigned *gap);

#endif
