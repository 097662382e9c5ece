//! Arrays of the `ndarray` crate, as arguments and from results.

use ndarray::{Array, ArrayBase, ArrayD, Data, Dimension, IxDyn};

use super::{ArrayError, Element, FilledArray, NdArray, array};

/// Elements that are converted at a time on their way into shared memory: they stay in the processor's first cache.
const STEP: usize = 1024;

fn shape_of(shape: &[usize]) -> Vec<u64> {
    shape.iter().map(|length| *length as u64).collect()
}

/// A copy of an array or a view, in C order, however it lies in memory.
impl<T: Element, S: Data<Elem = T>, D: Dimension> From<&ArrayBase<S, D>> for NdArray {
    fn from(elements: &ArrayBase<S, D>) -> Self {
        let data = match elements.as_slice() {
            Some(slice) => array::bytes_of(slice),
            None => array::bytes_of(&elements.iter().copied().collect::<Vec<_>>()),
        };
        Self {
            dtype: T::DTYPE.to_owned(),
            shape: shape_of(elements.shape()),
            data: data.into(),
        }
    }
}

/// An array that is copied once, into the memory where Python sees it.
impl<T: Element + Send + Sync + 'static, D: Dimension + 'static> From<Array<T, D>> for FilledArray {
    fn from(elements: Array<T, D>) -> Self {
        let shape = shape_of(elements.shape());
        let elements = if elements.is_standard_layout() {
            elements
        } else {
            elements.as_standard_layout().into_owned()
        };
        let filled = Self::new::<T>(&shape, move |out| {
            let slice = elements.as_slice().unwrap_or_default();
            for (step, elements) in slice.chunks(STEP).enumerate() {
                let fits = out.write_elements(step * STEP, elements);
                debug_assert!(fits, "the memory is as large as the array");
            }
        });
        filled.expect("an array that there is fits into memory")
    }
}

/// A copy of the elements; an error when they are of another type, or fewer or more than the shape says.
impl<T: Element> TryFrom<&NdArray> for ArrayD<T> {
    type Error = ArrayError;

    fn try_from(array: &NdArray) -> Result<Self, ArrayError> {
        let elements = array.to_vec::<T>()?;
        let given = elements.len() as u64;
        let lengths = array.shape.iter().map(|length| usize::try_from(*length));
        let lengths = lengths.collect::<Result<Vec<_>, _>>();
        let shaped = lengths.map(|lengths| Self::from_shape_vec(IxDyn(&lengths), elements));
        match shaped {
            Ok(Ok(shaped)) => Ok(shaped),
            Ok(Err(_)) | Err(_) => Err(array::misshapen(&array.shape, given)),
        }
    }
}

#[cfg(test)]
mod tests {
    use ndarray::{arr0, array};

    use super::*;

    #[test]
    fn arrays_and_views_are_in_c_order_whatever_their_memory_is() {
        let rows = array![[1_i32, 2, 3], [4, 5, 6]];
        let forms = [
            (NdArray::from(&rows), vec![2, 3], vec![1, 2, 3, 4, 5, 6]),
            (NdArray::from(&rows.t()), vec![3, 2], vec![1, 4, 2, 5, 3, 6]),
            (NdArray::from(&rows.column(1)), vec![2], vec![2, 5]),
            (
                FilledArray::from(rows.t().to_owned()).to_ndarray(),
                vec![3, 2],
                vec![1, 4, 2, 5, 3, 6],
            ),
        ];
        for (array, shape, elements) in forms {
            assert_eq!((&*array.dtype, &array.shape), ("<i4", &shape));
            assert_eq!(array.to_vec::<i32>().unwrap(), elements);
        }
        let scalar = NdArray::from(&arr0(2.5));
        assert_eq!(
            (scalar.shape.len(), scalar.to_vec::<f64>().unwrap()),
            (0, vec![2.5])
        );
        let large = Array::from_shape_fn((3, 1000), |(row, column)| (row * 1000 + column) as u64);
        let filled = FilledArray::from(large.clone()).to_ndarray();
        assert_eq!(ArrayD::<u64>::try_from(&filled).unwrap(), large.into_dyn());
    }

    #[test]
    fn what_is_no_such_array_is_refused() {
        let array = NdArray::from_slice(&[2, 2], &[1_u8, 2, 3, 4]).unwrap();
        assert_eq!(
            ArrayD::<u8>::try_from(&array).unwrap(),
            array![[1, 2], [3, 4]].into_dyn()
        );
        assert!(ArrayD::<i8>::try_from(&array).is_err());
        for shape in [vec![3], vec![], vec![u64::MAX, 2], vec![1 << 40, 1 << 40]] {
            let odd = NdArray {
                shape,
                ..array.clone()
            };
            let error = ArrayD::<u8>::try_from(&odd).unwrap_err().to_string();
            assert!(error.contains("4 were given"), "{error}");
        }
    }
}
