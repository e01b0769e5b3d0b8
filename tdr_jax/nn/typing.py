"""Arrays as signatures name them: `Float[Array, "b h w c"]` of jaxtyping says dtype and shape.

`Float` is any float dtype, that of the computation (a config's `dtype`: float32 or bfloat16);
`Float32` stands where the code promises it. One letter or word is one size throughout a signature,
`*n` any number of axes, `...` axes that nothing else hangs on. The tests check them at run time.

Letters that all files share: b batch, h and w pixels down and across, c and d features in and out,
t tokens, n pixels or patches in a row.
"""

import jax
import numpy as np

# A NumPy array may stand in wherever JAX computes.
Array = jax.Array | np.ndarray
