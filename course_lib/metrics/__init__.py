"""The numbers that the papers print, from batches of tensors.

Most functions give one number per image or person, (B,), which `average` pools; `mean_iou` reads a data set's confusion
matrix, `average_precision` a data set's detections. Shares are 0 to 1, never percent. What cannot be counted (NaN, an
empty mask, other shapes) is a ValueError that names the item of the batch. No result is NaN, but for classes without
pixels in `class_iou` and `class_accuracy`.
"""

# ruff: noqa: F401 (this is where the names are taken from)
from course_lib.metrics.common import average, mean_of_means
from course_lib.metrics.dense import (
    align_depth,
    angle_summary,
    class_accuracy,
    class_iou,
    confusion_matrix,
    depth_errors,
    mean_accuracy,
    mean_iou,
    normal_angles,
    normal_errors,
)
from course_lib.metrics.images import box_around, psnr, ssim
from course_lib.metrics.matting import connectivity_error, gradient_error, make_trimap, matting_errors
from course_lib.metrics.pose2d import (
    BODY_SIGMAS,
    SAPIENS_PARTS,
    SAPIENS_SIGMAS,
    WHOLEBODY_PARTS,
    WHOLEBODY_SIGMAS,
    Detections,
    People,
    average_precision,
    oks,
    oks_nms,
    part_average_precision,
    pose_score,
)
from course_lib.metrics.pose3d import (
    auc,
    box_size,
    cps,
    head_size,
    match_poses,
    mpjpe,
    mpvpe,
    pa_mpjpe,
    pck,
    rescale_bones,
    segment_length,
)
